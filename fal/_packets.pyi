from typing_extensions import Buffer

def copies(
    descriptors: Buffer, frames: Buffer, snaplen: int
) -> tuple[list[float], list[bytes]]: ...
