"""Corrupted files, for ``fuzzing``: sessions, samples, images, LoRAs and models."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import spoil, spoil_json, spoil_value
from fuzz_pickles import HEIGHT, WIDTH, corrupted_pickle
from fuzzing import MB, Kind
from PIL import Image, features
from session_files import header_of, sha256

from dragwidget.data.dragbench import read_dragbench
from dragwidget.data.image import source_image
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import load_lora, save_lora
from dragwidget.session.session import DragSession
from dragwidget.session.session_file import JSON_NAME, TENSORS_NAME


def corrupted_tensors(chance: random.Random, data: bytes) -> bytes:
    """A safetensors file whose header lies, or whose bytes are corrupted."""
    if chance.random() < 0.4:
        return spoil(chance, data)
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    act = chance.randrange(5)
    name = chance.choice(names)
    if act == 0:
        shapes = [[], [0], [2**40], [2**31, 2**31], [-1], [1, 0], [1] * 70, ["x"], None, [1.5]]
        header[name]["shape"] = chance.choice(shapes)
    elif act == 1:
        header[name]["dtype"] = chance.choice(
            ["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", 3, None]
        )
    elif act == 2:
        ends = [0, 4, len(rest), len(rest) + 1, 2**40, 2**63, 2**64 - 1, -1]
        header[name]["data_offsets"] = [chance.choice(ends), chance.choice(ends)]
    elif act == 3:  # another name, a consistent lie about its shape
        size = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
        header[name] = {**header[name], "dtype": "U8", "shape": [size]}
        header[chance.choice(["alpha", f"{name}.alpha", "unet.x", name[:-6] + "alpha"])] = (
            header.pop(name)
        )
    else:
        text = spoil_json(chance, header)
        packed = text if isinstance(text, bytes) else text.encode()
        said = chance.choice([len(packed), len(packed), len(packed) + 8, 2**40, 2**63])
        return struct.pack("<Q", said) + packed + rest
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + rest


def _tiny_model(folder: Path) -> Path:
    from tiny_models import write_model

    return write_model(folder / "tiny")


class Sessions(Kind):
    """Sessions, ``.drag``."""

    documented = (ValueError, FileNotFoundError)
    limit = 60 * MB

    def __init__(self, folder: Path) -> None:
        from tiny_sessions import ask, left_half, session_on

        super().__init__(folder)
        self.model = load_model(_tiny_model(folder), device="cpu", dtype="float32")
        session = session_on(self.model, lora_steps=1)
        session.instructions = ask(mask=left_half())
        session.step(2)
        session.rewind(1)
        session.step(1)
        self.path = folder / "edit.drag"
        session.save(self.path)
        self.data = self.path.read_bytes()
        with zipfile.ZipFile(self.path) as file:
            self.content = json.loads(file.read(JSON_NAME))
            self.tensors = file.read(TENSORS_NAME)
            names = sorted(set(file.namelist()) - {JSON_NAME, TENSORS_NAME})
            self.nodes = {name: file.read(name) for name in names}
        self.read(self.path)

    def make(self, chance: random.Random) -> Path:
        self.path.write_bytes(self._made(chance))
        return self.path

    def _made(self, chance: random.Random) -> bytes:
        act = chance.random()
        if act < 0.25:
            return spoil(chance, self.data)
        if act < 0.45:
            return self._zipped([(JSON_NAME, spoil_json(chance, self.content))])
        if act < 0.6:
            return self._with_spoilt_node(chance)
        if act < 0.75:
            packed = corrupted_tensors(chance, self.tensors)
            return self._zipped([(JSON_NAME, json.dumps(self.content))], packed)
        if act < 0.77:  # masks much larger than the image, many of them
            content = json.loads(json.dumps(self.content))
            large = {**json.loads(content["instructions"]), "size": [4000, 3000]}
            large["mask_runs"] = [0, 12_000_000]
            content["drawn"] = [
                json.dumps({**large, "prompt": str(k)}) for k in range(chance.choice([1, 30]))
            ]
            return self._zipped([(JSON_NAME, json.dumps(content))])
        return self._strange_zip(chance)

    def _with_spoilt_node(self, chance: random.Random) -> bytes:
        """A node whose JSON or tensors are corrupted, under the right name."""
        place = chance.randrange(len(self.nodes))
        part = list(self.nodes)[place]
        header = header_of(self.nodes[part])
        if chance.random() < 0.6:
            places = json.loads(header[8:])
            about = places["__metadata__"]
            text = spoil_json(chance, json.loads(about["node"]))
            about["node"] = text if isinstance(text, str) else text.decode(errors="replace")
            packed = json.dumps(places).encode()
            corrupted = struct.pack("<Q", len(packed)) + packed + self.nodes[part][len(header) :]
        else:
            corrupted = corrupted_tensors(chance, self.nodes[part])
        content = json.loads(json.dumps(self.content))
        content["edits"][0]["nodes"][place] = sha256(header_of(corrupted))
        return self._zipped(
            [(JSON_NAME, json.dumps(content))], nodes={**self.nodes, part: corrupted}
        )

    def _zipped(
        self,
        parts: list[tuple[Any, str | bytes]],
        tensors: bytes | None = None,
        method: int = zipfile.ZIP_STORED,
        nodes: dict[str, bytes] | None = None,
    ) -> bytes:
        tensors = self.tensors if tensors is None else tensors
        return zipped([*parts, *(nodes or self.nodes).items()], tensors, method)

    def _strange_zip(self, chance: random.Random) -> bytes:
        plain = json.dumps(self.content)
        name = chance.choice(
            ["../session.json", "/tmp/session.json", "..\\session.json", "C:/session.json",
             "session.json/", "SESSION.JSON", "session.json\x00x", "a" * 300, "."]
        )  # fmt: skip
        act = chance.choice([0, 1, 2, 3, 5, 5, 6, 6]) if chance.random() < 0.97 else 4
        if act == 0:
            return self._zipped([(name, plain)])
        if act == 1:
            return self._zipped([(JSON_NAME, plain), (name, "x")])
        if act == 2:
            return self._zipped([(JSON_NAME, plain), (JSON_NAME, "{}")])
        if act == 3:  # a link to elsewhere
            link = zipfile.ZipInfo(JSON_NAME)
            link.external_attr = 0o120777 << 16
            return self._zipped([(link, "/etc/passwd")])
        if act == 4:  # a bomb
            bomb = plain[:-1] + " " * (40 * MB) + "}"
            return self._zipped([(JSON_NAME, bomb)], method=zipfile.ZIP_DEFLATED)
        if act == 5:
            method = chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
            return spoil(chance, self._zipped([(JSON_NAME, plain)], method=method))
        data = bytearray(self._zipped([(JSON_NAME, plain)]))
        for mark, offsets in (
            (b"PK\x01\x02", (8, 10, 20, 24, 42)),
            (b"PK\x03\x04", (6, 8, 18, 22)),
        ):
            at = data.find(mark) + chance.choice(offsets)
            data[at : at + 2] = struct.pack("<H", chance.choice([0, 1, 8, 9, 99, 0xFFFF]))
        return bytes(data)

    def read(self, given: Path) -> object:
        session = DragSession.load(given, self.model)
        for edit in session.edits:  # what a page shows of it
            for step in edit.history:
                float(step.loss), float(step.distances.sum()), len(step.loss_terms)
            edit.history.path(edit.history.tip)
            for node in edit.history.nodes:
                with contextlib.suppress(OSError):  # it is damaged, and says so
                    node.latent.sum(), node.moments.first.sum()
        return session.status, repr(session.instructions), session.image.size


def zipped(
    parts: list[tuple[Any, str | bytes]], tensors: bytes, method: int = zipfile.ZIP_STORED
) -> bytes:
    import warnings

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
            for name, content in parts:
                archive.writestr(name, content)
            archive.writestr(TENSORS_NAME, tensors)
    return file.getvalue()


class Samples(Kind):
    """Samples of DragBench."""

    documented = (ValueError, FileNotFoundError)

    def make(self, chance: random.Random) -> Path:
        canary = self.folder / "canary"
        assert not canary.exists()
        image = png([chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))])
        if chance.random() < 0.1:
            image = spoil(chance, image)
        (self.folder / "original_image.png").write_bytes(image)
        (self.folder / "meta_data.pkl").write_bytes(corrupted_pickle(chance, canary))
        return self.folder

    def read(self, given: Path) -> object:
        return read_dragbench(given).instructions.to_json()


def chunk(kind: bytes, data: bytes, said: int | None = None) -> bytes:
    """A chunk of a PNG; ``said``: the length it claims to have."""
    length = len(data) if said is None else said
    return struct.pack(">I", length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(chunks: list[bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@cache
def packed_zeros(count: int) -> bytes:
    """A bomb, where there are many."""
    return zlib.compress(b"\x00" * count, 1)


class Images(Kind):
    """Images of every format."""

    documented = (ValueError, OSError)
    limit = 1500 * MB  # 80 million pixels are decoded, at 4 bytes, and laid on white
    heavy = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ramp = np.arange(60 * 90 * 4).reshape(60, 90, 4) % 251
        image = Image.fromarray(ramp.astype(np.uint8))
        self.examples = []
        for form, mode in [
            ("png", "RGBA"), ("png", "P"), ("png", "I;16"), ("jpeg", "RGB"), ("gif", "P"),
            ("bmp", "RGB"), ("tiff", "RGB"), ("webp", "RGBA"), ("ppm", "RGB"), ("ico", "RGBA"),
            ("tga", "RGB"), ("jpeg2000", "RGB"), ("pcx", "RGB"), ("eps", "RGB"), ("sgi", "RGB"),
        ]:  # fmt: skip
            if form == "webp" and not features.check("webp"):
                continue
            made = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
            file = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            made.save(file, form, **({"exif": exif} if form in ("jpeg", "png", "webp") else {}))
            self.examples.append(file.getvalue())
        for example in self.examples:  # every plugin is loaded before anything is watched
            (folder / "image").write_bytes(example)
            try:
                self.read(folder / "image")
            except self.documented:
                continue

    def make(self, chance: random.Random) -> Path:
        path = self.folder / "image"
        act = chance.random()
        if act < 0.1:
            path.write_bytes(chance.choice(self.examples))
        elif act < 0.7:
            path.write_bytes(spoil(chance, chance.choice(self.examples)))
        else:
            path.write_bytes(self._strange_png(chance))
        return path

    @staticmethod
    def _strange_png(chance: random.Random) -> bytes:
        sides = [0, 1, 7, 60, 5000, 9000, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
        width, height = chance.choice(sides), chance.choice(sides)
        depth, colour = chance.choice([(8, 2), (8, 6), (16, 0), (1, 0), (8, 3), (3, 9), (16, 6)])
        header = struct.pack(
            ">IIBBBBB", width, height, depth, colour, 0, 0, chance.choice([0, 1, 7])
        )
        packed = packed_zeros(chance.choice([0, 10, 10**6, 5 * 10**7]))
        text = b"key\x00\x00" + packed_zeros(10**8)
        others = [
            b"", chunk(b"PLTE", b"\x00" * 3), chunk(b"tRNS", b"\x00"), chunk(b"zTXt", text),
            chunk(b"iCCP", text), chunk(b"eXIf", b"MM\x00*" + b"\xff" * 40),
            chunk(b"iTXt", b"x", said=2**31), chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            chunk(b"iTXt", b"k\x00\x01\x00\x00\x00" + packed_zeros(10**8)),
        ]  # fmt: skip
        made = png(
            [
                chunk(b"IHDR", header),
                chance.choice(others),
                chance.choice(others),
                chunk(b"IDAT", packed, said=chance.choice([None, None, 2**31 - 1, 0])),
                chunk(b"IEND", b""),
            ]
        )
        return spoil(chance, made, 1) if chance.random() < 0.2 else made

    def read(self, given: Path) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what is guessed
            return source_image(given).fitted_size


class Loras(Kind):
    """Files of LoRAs."""

    documented = (ValueError, FileNotFoundError)
    heavy = True

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import save as save_tensors
        from tiny_models import kohya_names, make_unet, random_lora

        super().__init__(folder)
        self.unet = make_unet()
        lora = random_lora(self.unet)
        said = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_v": 3}}
        said = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in said.items()})}
        self.examples = [
            save_lora(lora, folder / "lora.safetensors").read_bytes(),
            save_lora(lora, folder / "lora.safetensors", said).read_bytes(),
            save_tensors(kohya_names(lora)),
        ]
        self.read(folder / "lora.safetensors")

    def make(self, chance: random.Random) -> Path:
        path = self.folder / "lora.safetensors"
        data = chance.choice(self.examples)
        if chance.random() < 0.25:
            data = self._configured(chance, data)
        path.write_bytes(corrupted_tensors(chance, data) if chance.random() < 0.85 else data)
        return path

    @staticmethod
    def _configured(chance: random.Random, data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        pattern = chance.choice(["(a+)+$", "(.*)*x", "[", "to_v", "(?P<", ".*" * 40 + "x"])
        said = {"unet.lora_alpha": 8, "unet.r": 4, "unet.alpha_pattern": {pattern: 2}}
        said = spoil_value(chance, said) if chance.random() < 0.6 else said
        header["__metadata__"] = {"lora_adapter_metadata": json.dumps(said)}
        packed = json.dumps(header).encode()
        return struct.pack("<Q", len(packed)) + packed + data[8 + length :]

    def read(self, given: Path) -> object:
        return load_lora(given, self.unet).digest


class Models(Kind):
    """Folders of models."""

    documented = (ValueError, FileNotFoundError)
    heavy = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole = _tiny_model(folder)
        self.path = folder / "corrupted"
        self.canary = folder / "canary"
        self.files = sorted(p.relative_to(self.whole) for p in self.whole.rglob("*") if p.is_file())
        self.read(self.whole)

    def make(self, chance: random.Random) -> Path:
        assert not self.canary.exists()
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.whole, self.path, copy_function=os.link)
        for _ in range(chance.randint(1, 2)):
            self._spoil_file(chance, self.path / chance.choice(self.files))
        if chance.random() < 0.3:
            self._add_code(chance)
        return self.path

    def _spoil_file(self, chance: random.Random, file: Path) -> None:
        if not file.exists():
            return
        data = file.read_bytes()
        file.unlink()  # it is a link to the whole model's
        try:
            if file.suffix == ".safetensors":
                data = corrupted_tensors(chance, data)
            elif file.suffix == ".json" and chance.random() < 0.8:
                text = spoil_json(chance, json.loads(data))
                data = text if isinstance(text, bytes) else text.encode()
            else:
                data = spoil(chance, data)
        except (ValueError, RecursionError):  # it was corrupted before
            data = spoil(chance, data)
        if chance.random() < 0.95:
            file.write_bytes(data)

    def _add_code(self, chance: random.Random) -> None:
        code = f"open({str(self.canary)!r}, 'w').close()\nclass Evil: pass\n"
        part = chance.choice(["", "unet", "vae", "text_encoder", "tokenizer", "scheduler"])
        (self.path / part / "evil.py").write_text(code)
        for file in (self.path / part).glob("*.json"):
            try:
                content = json.loads(file.read_bytes())
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                content |= {
                    "auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil"] * 2}
                }
                content["_class_name"] = chance.choice(
                    [content.get("_class_name"), ["evil", "Evil"]]
                )
                file.unlink()
                file.write_text(json.dumps(content))

    def read(self, given: Path) -> object:
        return load_model(given, device="cpu", dtype="float32").fingerprint


FILES = {
    "drag": Sessions,
    "pickle": Samples,
    "image": Images,
    "lora": Loras,
    "model": Models,
}
