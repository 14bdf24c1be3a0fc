"""What a model is, as a digest: every weight, and every setting that can change a result.

The digest is of what was loaded, not of files: a folder, a checkpoint file and a copy of either
that hold the same model have the same one, whatever their names. It does not depend on the device,
the release of a library or the order of anything in a file.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["digest_of", "stamp_of"]

_SAMPLES = 16  # values of each weight that are compared to notice a change
_WORKERS = 4  # hashlib lets other threads run
# Of a configuration: who wrote it and where, and in which precision, which the weights say.
_NO_SETTINGS = ("architectures", "dtype", "torch_dtype", "transformers_version", "model_type")


def digest_of(model: Any) -> str:
    """Return the digest of a ``LatentBackbone``: hexadecimal SHA-256.

    It reads every byte of the weights: about a second per GB.
    """
    with ThreadPoolExecutor(_WORKERS) as pool:
        weights = list(pool.map(_digest, (tensor for _, tensor in _tensors(model))))
    described = [
        settings_of(model),
        [tokenizer_of(tokenizer) for tokenizer in model.tokenizers],
        [
            [name, str(tensor.dtype), list(tensor.shape), digest]
            for (name, tensor), digest in zip(_tensors(model), weights, strict=True)
        ],
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def stamp_of(model: Any) -> object:
    """What is compared to notice, in milliseconds, that a model has changed since it was hashed.

    It notices what PyTorch counts as a change in place, and whatever changes weights all over (a
    fused LoRA, another checkpoint's values). It does not notice a few values changed behind
    PyTorch's back (``weight.data[0] = 1``).
    """
    tensors = dict(_tensors(model))
    alike: dict[Any, list[Tensor]] = {}
    for tensor in tensors.values():
        alike.setdefault((tensor.device, tensor.dtype), []).append(_sample(tensor))
    samples = tuple(_bytes(torch.cat(group)) for group in alike.values())
    versions = tuple(
        (name, tuple(tensor.shape), str(tensor.dtype), _version(tensor))
        for name, tensor in tensors.items()
    )
    settings = json.dumps(settings_of(model), sort_keys=True)
    return settings, [*map(len, model.tokenizers)], versions, samples


def settings_of(model: Any) -> dict[str, Any]:
    """Everything but weights and words that a result depends on, ready for JSON."""
    return {
        "kind": type(model).__qualname__,
        **{
            name: _digest(value) if isinstance(value, Tensor) else value
            for name, value in model.path_settings.items()
        },
        **({} if model.encoding == "mean" else {"encoding": model.encoding}),
        **model.text_settings,
        **{name: [type(n).__qualname__, _configuration(n)] for name, n in model.networks.items()},
    }


def _configuration(network: Any) -> dict[str, str]:
    """What differs from the defaults of a network's class; so it is stable when those grow."""
    config = network.config
    if hasattr(config, "to_dict"):
        values, defaults = config.to_dict(), type(config)().to_dict()
    else:
        parameters = inspect.signature(type(network).__init__).parameters
        values = dict(config)
        defaults = {name: parameter.default for name, parameter in parameters.items()}
    return {
        name: json.dumps(value, sort_keys=True, default=repr)
        for name, value in values.items()
        if name not in _NO_SETTINGS
        and not name.startswith("_")
        and json.dumps(value, default=repr) != json.dumps(defaults.get(name), default=repr)
    }


def tokenizer_of(tokenizer: Any) -> list[Any]:
    """Return all that decides how a text is cut into tokens, ready for JSON."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    for call in ("truncation", "padding"):  # left there by the last call, and set in each
        rules.pop(call, None)
    ranks = getattr(tokenizer, "bpe_ranks", {})  # of a tokenizer written in Python
    return [
        rules,
        sorted(tokenizer.get_vocab().items()),
        sorted((list(pair), rank) for pair, rank in ranks.items()),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        [tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side],
    ]


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight and buffer, with its name, those shared by two layers once."""
    networks: Mapping[str, nn.Module] = model.networks
    for part, network in networks.items():
        for tensors in (network.named_parameters(), network.named_buffers()):
            yield from ((f"{part}.{name}", tensor.detach()) for name, tensor in tensors)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> bytes | memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _sample(tensor: Tensor) -> Tensor:
    """Return a few values, spread over a weight."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
