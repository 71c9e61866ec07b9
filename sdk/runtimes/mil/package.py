"""Opening a saved ``.mlpackage``: the folder, its manifest, the model description and the weights beside it.

The layout is Apple's: ``Manifest.json`` lists the items and names the root model, a protobuf
(``Data/com.apple.CoreML/model.mlmodel``); weights lie in ``Data/com.apple.CoreML/weights/``.  Nothing here needs
Apple's libraries.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import FileTroubleError, MissingRuntimeError, UsageError

#: What coremltools says on import outside macOS and beside a torch newer than the one it was tested with. None of it
#: concerns reading a file.
_NOISY_LOGGERS = ("coremltools", "torch.utils._pytree")


@dataclass(frozen=True)
class Package:
    """A saved package, read but not yet rebuilt.

    Attributes:
        path: the ``.mlpackage`` folder.
        spec: the parsed ``Model`` protobuf; its type is ``mlProgram``.
        weights: the folder with the weight files.
    """

    path: Path
    spec: Any
    weights: Path


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back the warnings that importing and using coremltools on this host would print."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def import_runtime() -> None:
    """Imports coremltools and torch without their chatter.

    Raises:
        MissingRuntimeError: when one of them is not installed.
    """
    with quiet():
        for package in ("torch", "coremltools"):
            try:
                __import__(package)
            except ModuleNotFoundError as error:
                if error.name != package:
                    raise
                raise MissingRuntimeError.for_extra("the MIL reference executor", package, "mil") from error


def open_package(path: Path) -> Package:
    """Reads the manifest and the model description of a saved package.

    Raises:
        UsageError: when there is no package, it is damaged, or it holds something else than an ML program.
        FileTroubleError: when the disk refuses.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: give the folder of a saved .mlpackage.")
    if not path.is_dir():
        raise UsageError(f"{path} is a file, but an .mlpackage is a folder: give the folder that holds Manifest.json.")
    model = _root_model(path)
    spec = _parse(model, path)
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise UsageError(
            f"{path} holds a model of the type {kind or 'nothing'}: only mlProgram can be executed "
            "(convert with convert_to='mlprogram')."
        )
    return Package(path=path, spec=spec, weights=model.parent / "weights")


def _root_model(path: Path) -> Path:
    manifest = path / "Manifest.json"
    if not manifest.is_file():
        raise UsageError(f"{path} has no Manifest.json, so it is not a whole .mlpackage: save or copy it again.")
    try:
        entries = json.loads(_read(manifest))
        relative = entries["itemInfoEntries"][entries["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{manifest} does not name a root model ({error}): save or copy the package again.") from error
    data = path / "Data"
    model = data / str(relative)
    if not model.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"{manifest} names a model outside of the package ({relative!r}): do not trust this file.")
    if not model.is_file():
        raise UsageError(f"{path} has no {model.relative_to(path)}, which its manifest names: save or copy it again.")
    return model


def _parse(model: Path, path: Path) -> Any:
    with quiet():
        from coremltools.proto import Model_pb2
        from google.protobuf.message import DecodeError
    spec = Model_pb2.Model()
    try:
        spec.ParseFromString(_read(model))
    except DecodeError as error:
        raise UsageError(
            f"{model.relative_to(path)} of {path} is not a Core ML model or is cut short ({error}): "
            "save or copy it again."
        ) from error
    return spec


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FileTroubleError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error


def operator_names(spec: Any) -> tuple[str, ...]:
    """The MIL operators of every function and nested block, each once, in order of appearance."""
    found: dict[str, None] = {}

    def visit(block: Any) -> None:
        for operation in block.operations:
            found.setdefault(operation.type)
            for nested in operation.blocks:
                visit(nested)

    for function in spec.mlProgram.functions.values():
        visit(function.block_specializations[function.opset])
    return tuple(found)


def rebuild(package: Package) -> Any:
    """The package's program with its weights, as coremltools' ``Program``.

    Raises:
        UsageError: when program or weights are damaged, or written by a newer coremltools.
    """
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load as load_program

        try:
            return load_program(
                package.spec,
                specification_version=package.spec.specificationVersion,
                file_weights_dir=str(package.weights),
            )
        # coremltools checks with all of these; each means that the file contradicts itself.
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"the program or the weights of {package.path} cannot be read ({first_line}): "
                "the package is damaged or newer than the installed coremltools; save it again."
            ) from error
