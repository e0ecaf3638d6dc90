"""What a real library exports: the functions to play, and the version they carry."""

import re
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection
from elftools.elf.sections import SymbolTableSection

FUNCTION_TYPES = ("STT_FUNC", "STT_LOOS")  # GNU numbers an indirect function as LOOS


@dataclass(frozen=True, slots=True)
class Exports:
    """The C interface of a library."""

    functions: tuple[str, ...]
    version: str | None
    """The version node of its symbols, `libcublas.so.13`, where it has one."""


def exports_of(library: Path, prefixes: tuple[str, ...]) -> Exports:
    """The exported functions whose names begin with one of `prefixes`."""
    with library.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".dynsym")
        versions = elf.get_section_by_name(".gnu.version_d")
        functions = set()
        if isinstance(symbols, SymbolTableSection):
            functions = {
                symbol.name
                for symbol in symbols.iter_symbols()
                if symbol["st_info"]["type"] in FUNCTION_TYPES
                and symbol["st_shndx"] != "SHN_UNDEF"
                and symbol.name.startswith(prefixes)
            }
        node = None
        if isinstance(versions, GNUVerDefSection):
            names = [
                next(names).name
                for definition, names in versions.iter_versions()
                if not definition["vd_flags"] & 1  # the first names the file itself
            ]
            node = names[0] if names else None
    return Exports(tuple(sorted(functions)), node)


def driver_functions(header: str) -> tuple[str, ...]:
    """The functions that `cuda.h` declares, in every version it knows of a name.

    The driver is in no wheel, but its header is. `cuCtxCreate` is declared there and
    defined to be `cuCtxCreate_v4`: a program may ask for either.
    """
    declared = re.findall(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(", header)
    renamed = re.findall(
        r"#\s*define\s+cu[A-Z]\w*\s+(cu[A-Z]\w*_v\d+)\s*$", header, re.M
    )
    return tuple(sorted({*declared, *renamed}))
