//! Devices by name, and their execution providers. A device that was asked for is had or is an error: two questions
//! are asked apart, whether the library was built with it, and whether it registers on this machine.

use std::fmt;
use std::str::FromStr;

use ort::ep::{self, ExecutionProvider};
use ort::session::builder::SessionBuilder;

use super::codes;
use crate::base::{Error, Result};

/// Where programs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number, counted from 0.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Parses `cpu`, `cuda` and `cuda:N`.
    ///
    /// # Errors
    /// `device-spelling` for anything else.
    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|c| c.is_ascii_digit()));
        match text {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(number).map(Self::Cuda),
        }
        .ok_or_else(|| {
            Error::new(&codes::DEVICE_SPELLING, format!("`{text}` is not a device: expected `cpu`, `cuda` or `cuda:N`"))
        })
    }
}

impl Device {
    /// Adds the provider of this device to a session.
    ///
    /// # Errors
    /// `device-missing` if the library was built without it or it does not register here.
    pub(super) fn register(self, builder: &mut SessionBuilder) -> Result<()> {
        let Self::Cuda(number) = self else { return Ok(()) };
        if !ep::CUDA::is_available().unwrap_or(false) {
            return Err(self
                .missing("the loaded ONNX Runtime was built without CUDA")
                .help("run `engraft setup --cuda`, or set ORT_DYLIB_PATH to a build with CUDA"));
        }
        let id = i32::try_from(number).map_err(|e| self.missing("there is no GPU of that number").because(e))?;
        // TF32 would round the factors of every product to 10 bits: an edit's effect must not drown in that.
        let provider = ep::CUDA::default().with_device_id(id).with_tf32(false).build().error_on_failure();
        provider.register(builder).map_err(|e| {
            self.missing("ONNX Runtime has CUDA, but it does not start on this machine")
                .help(
                    "check the NVIDIA driver, the number of the GPU, and that CUDA and cuDNN are on the loader's path",
                )
                .because(e)
        })
    }

    pub(super) fn missing(self, what: &str) -> Error {
        Error::new(&codes::DEVICE_MISSING, format!("the device `{self}` cannot be had: {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_one_spelling() {
        for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda:0".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:99999999999"] {
            assert_eq!(text.parse::<Device>().unwrap_err().code().id, "device-spelling", "{text}");
        }
    }
}
