"""The settings of the service: `model.py` has each with its default, `loading.py` reads them.

Sources, the first wins: arguments, `AMISTREAM_*` variables, the TOML file, the defaults.
"""

from amistream.settings.choices import Acl, LogFormat, OnStop, ServerEncryption, Sparse
from amistream.settings.loading import config_path, load, variable_of
from amistream.settings.memory import (
    BLOCKS_AT_ONCE,
    PROCESS_BASELINE,
    concurrency_within,
    conversion_buffers,
    conversion_ceiling,
    memory_ceiling,
    puts_within,
)
from amistream.settings.model import Settings, default_state_dir
from amistream.settings.parsing import PartSize, common_architecture, in_words

__all__ = [
    "BLOCKS_AT_ONCE",
    "PROCESS_BASELINE",
    "Acl",
    "LogFormat",
    "OnStop",
    "PartSize",
    "ServerEncryption",
    "Settings",
    "Sparse",
    "common_architecture",
    "concurrency_within",
    "config_path",
    "conversion_buffers",
    "conversion_ceiling",
    "default_state_dir",
    "in_words",
    "load",
    "memory_ceiling",
    "puts_within",
    "variable_of",
]
