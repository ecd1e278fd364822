"""Every exception class of the project: what a caller may want to handle by name."""


class IterCompError(Exception):
    """Base of all errors raised on purpose by this project."""


class ConfigError(IterCompError, ValueError):
    """A setting is unknown, impossible, or at odds with another; the message names it and the way out."""


class CheckpointError(IterCompError):
    """A checkpoint is missing, incomplete, of the wrong family, or unsafe to load."""


class DivergedError(IterCompError):
    """A loss, gradient or reward is not finite, or a reward model is no better than chance."""


class StoreError(IterCompError):
    """The shared store cannot be used as asked: wrong version, no permission, no space, no create-only writes."""


class CorruptRecordError(StoreError):
    """A committed record does not match its checksum, or a part of it is missing."""


class MissingRecordError(StoreError, LookupError):
    """The store holds no such record, array or weights version."""


class InvalidNameError(StoreError, ValueError):
    """A kind, id, role, reader or array name could not be one step of a store key."""


class WorkerDiedError(IterCompError):
    """A process of the run died while it held work; the message names the role and the process."""


class StoppedError(IterCompError):
    """The run was asked to stop (SIGTERM), has kept what it could, and goes on with --resume."""


class StuckError(IterCompError):
    """A piece of work took longer than actors.progress_timeout_s; the message names the role and the process."""


class PlannerError(IterCompError):
    """A planner gave no answer: its endpoint is down, slow or refuses, or its model cannot chat."""


class GalleryError(IterCompError):
    """A gallery member gives no images that are made elsewhere: its endpoint is down or refuses, or a file is gone."""


class JudgeError(IterCompError):
    """A judge gives no scores: its endpoint is down or refuses, its answers cannot be read, or its budget is spent."""


class PlanError(IterCompError):
    """A plan of a picture (regions, boxes, canvas) cannot be drawn as it is."""
