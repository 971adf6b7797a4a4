"""The members of a tar that may come from anybody, and the samples that they make up."""

import tarfile
from collections.abc import Iterator
from typing import IO, Any

BLOCK = tarfile.BLOCKSIZE
# What tarfile raises for headers that are none.
TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, IndexError)


class CheckedMember(tarfile.TarInfo):
    """A member that ends behind its beginning: older Pythons follow a negative size round in a circle."""

    @classmethod
    def frombuf(cls, *arguments: Any) -> "CheckedMember":
        member = super().frombuf(*arguments)
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name!r} has a negative size")
        return member


def open_tar(file: IO[bytes]) -> tarfile.TarFile:
    """An uncompressed tar, from where the file stands.

    Raises:
        TAR_ERRORS: it is none; also while its members are listed.
    """
    return tarfile.open(fileobj=file, mode="r:", tarinfo=CheckedMember)


def sample_spans(tar: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each sample of a tar: its key, and the tar blocks that its members take, from and to.

    A sample's members stand together, as WebDataset's readers demand; where a key comes again later, it is another
    sample.

    Raises:
        tarfile.TarError: no tar, or, behind the samples that are whole, one that is damaged or cut short.
    """
    tar.seek(0)
    try:
        yield from _sample_spans(tar)
    except TAR_ERRORS as error:
        raise tarfile.ReadError(" ".join(str(error).split())) from error


def _sample_spans(tar: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    key, span = "", (0, 0)
    with open_tar(tar) as archive:
        for member in archive:
            if member.size < 0:  # an extended header may say so too
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            if not member.isfile():
                continue
            end = member.offset_data // BLOCK + -(-member.size // BLOCK)
            if span[1] and split_name(member.name)[0] == key:
                span = (span[0], end)
                continue
            if span[1]:
                yield key, span
            key, span = split_name(member.name)[0], (member.offset // BLOCK, end)
        # tarfile takes a damaged header for the end; a tar's end is a block of zeros.
        tar.seek(archive.offset)
        if tar.read(BLOCK) != b"\0" * BLOCK:
            raise tarfile.ReadError(f"no header at byte {archive.offset}, and not the end either")
        if span[1]:
            yield key, span


def split_name(member: str) -> tuple[str, str]:
    """A member's key, its folder included, and its suffix, from the first point of its name: WebDataset's rule."""
    folder, slash, file = member.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix
