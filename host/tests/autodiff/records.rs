//! Whole models against what PyTorch recorded.
