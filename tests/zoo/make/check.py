"""Runs a graph in ONNX Runtime against PyTorch: whole passes, decoding where it has a cache, and the record."""

import numpy as np
import onnxruntime
import torch

import cached
import graphs


def session(path):
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def graph(model, path, tolerance):
    """The largest difference of a logit that is not on padding, in float32."""
    running = session(path)
    if any(i.name.startswith("past_key_values") for i in running.get_inputs()):
        return _cached(model, running, tolerance)
    names = [i.name for i in running.get_inputs()]
    worst = 0.0
    for seed, (batch, sequence) in enumerate(((1, 1), (1, 7), (3, 19))):
        named = graphs.example(model, batch, sequence, seed + 1, "attention_mask" in names)
        with torch.no_grad():
            wanted = model(**named, use_cache=False).logits
        got = running.run(["logits"], {name: named[name].numpy() for name in names})[0]
        real = named.get("attention_mask", torch.ones(batch, sequence)).bool()
        worst = max(worst, _difference(got, wanted, real, tolerance, f"{batch}x{sequence}"))
    return worst


def recorded(path, record, half, tolerance):
    """Holds a graph to a family's record, as the tests in Rust do: logits, a padded batch, greedy tokens."""
    running = session(path)
    inputs = {i.name: i for i in running.get_inputs()}
    outputs = [o.name for o in running.get_outputs()]
    past = {}
    for name, value in inputs.items():
        if name.startswith("past_key_values"):
            shape = value.shape
            kind = np.float16 if value.type == "tensor(float16)" else np.float32
            past[name] = np.zeros, (shape[1], shape[3]), kind

    def run(ids, mask, kept):
        start = mask.shape[1] - ids.shape[1]
        feeds = {"input_ids": ids, "attention_mask": mask}
        feeds["position_ids"] = np.arange(start, mask.shape[1])[None].repeat(len(ids), 0)
        for name, (make, (count, width), kind) in past.items():
            feeds[name] = kept[name] if kept else make((len(ids), count, 0, width), kind)
        got = dict(zip(outputs, running.run(None, {name: feeds[name] for name in inputs}), strict=True))
        return got["logits"], {name: got[name.replace("past_key_values", "present")] for name in past}

    ids, padded, mask = (record[name].numpy() for name in ("ids", "padded.ids", "padded.mask"))
    got, kept = run(ids, np.ones_like(ids), None)
    wanted = record["half.logits" if half else "logits"]
    worst = _difference(got, wanted, torch.ones(ids.shape).bool(), tolerance, "ids")
    if "attention_mask" in inputs and not half:
        answer, _ = run(padded, mask, None)
        worst = max(worst, _difference(answer, record["padded.logits"], torch.from_numpy(mask).bool(), tolerance, "padded"))
    if past and not half:
        total, new = ids.shape[1], []
        for _ in range(record["greedy"].shape[1]):
            new.append(got[:, -1].argmax(-1)[:, None])
            total += 1
            got, kept = run(new[-1], np.ones((len(ids), total), dtype=np.int64), kept)
        if not (np.concatenate(new, 1) == record["greedy"].numpy()).all():
            raise ValueError(f"decodes {np.concatenate(new, 1).tolist()}")
    return worst


def _difference(got, wanted, real, tolerance, where):
    if got.shape != tuple(wanted.shape):
        raise ValueError(f"at {where}: shape {got.shape}, expected {tuple(wanted.shape)}")
    difference = (torch.from_numpy(got).float() - wanted.float())[real].abs().max().item()
    if not difference <= tolerance:
        raise ValueError(f"at {where}: off by {difference}")
    return difference


def _cached(model, running, tolerance):
    """A prompt of seven tokens with an empty past, two more tokens one by one, then three at once."""
    names = [i.name for i in running.get_inputs()]
    outputs = [o.name for o in running.get_outputs()]
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, model.config.vocab_size, (2, 12), generator=generator)
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
    empty = cached.example(model, 2, 0, 1)
    half = any(i.type == "tensor(float16)" for i in running.get_inputs())
    past = {
        name: value.numpy().astype(np.float16 if half else np.float32)
        for name, value in empty.items()
        if name.startswith("past")
    }
    worst, start = 0.0, 0
    for end in (7, 8, 9, 12):
        feeds = dict(past)
        feeds["input_ids"] = ids[:, start:end].numpy()
        feeds["attention_mask"] = np.ones((2, end), dtype=np.int64)
        feeds["position_ids"] = np.arange(start, end, dtype=np.int64)[None].repeat(2, 0)
        got = dict(zip(outputs, running.run(None, {name: feeds[name] for name in names}), strict=True))
        every = torch.ones(2, end - start).bool()
        worst = max(worst, _difference(got["logits"], wanted[:, start:end], every, tolerance, f"{start}..{end}"))
        past = {name: got[name.replace("past_key_values", "present")] for name in past}
        if any(value.shape[2] != end for value in past.values()):
            raise ValueError(f"at {start}..{end}: present has {[value.shape for value in past.values()]}")
        start = end
    return worst
