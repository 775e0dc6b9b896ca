"""Entry point of the extension: the work is in lib_accel/webui."""

from lib_accel.webui import callbacks
from lib_accel.webui.script import AccelScript

callbacks.register()

__all__ = ["AccelScript"]
