# Made by cffi from the C headers, which say more than any stub could.
from typing import Any

ffi: Any
lib: Any
