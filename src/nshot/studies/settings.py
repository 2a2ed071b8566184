"""The settings that several tables share; runs of one setting are done once."""

from .base import Setting, ours

MS = {"ms": "first"}
POWER = {"schedule": "power"}  # at CaLR's mean γ, computed

SPOS = Setting("spos")
SPOS_MS = Setting("spos", MS)
SPOS_CALR = Setting("spos", {"schedule": "calr"})
SPOS_OURS = Setting("spos", ours())
SPOS_POWER = Setting("spos", POWER)
SPOS_MS_POWER = Setting("spos", POWER | MS)
SPOS_MS_CENTRED = Setting("spos", {"schedule": "centred"} | MS)
SPOS_MS_LINE = Setting("spos", {"schedule": "power", "power": 1.0} | MS)
SPOS_MS_SHUFFLED = Setting("spos", {"schedule": "shuffled"} | MS)

# The released FairNAS baseline has a constant learning rate: its scheduler is never stepped.
FAIR = Setting("fairnas", {"schedule": "constant"})
FAIR_COSINE = Setting("fairnas")
FAIR_MS = Setting("fairnas", {"schedule": "constant"} | MS)
FAIR_MS_COSINE = Setting("fairnas", MS)
FAIR_CALR = Setting("fairnas", {"schedule": "calr"})
FAIR_OURS = Setting("fairnas", ours())

FEW = Setting("fsnas")
FEW_MS = Setting("fsnas", MS)
FEW_CALR = Setting("fsnas", {"schedule": "calr"})
FEW_OURS = Setting("fsnas", ours())

NO_MOMENTUM = {"momentum": 0.0, "nesterov": False}
