"""Where a run runs: the environment that Prefect, MLflow and torch read when they are imported.

What the user has set wins. Nothing here reports to anybody outside the machine.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

from rlhf_core.errors import StorageError, UserError
from rlhf_core.folders import check_room
from rlhf_core.same_bits import STRICT_MATHS, ask_for_same_bits

STORE_VARIABLE = "RLHF_STORE"
DEFAULT_STORE = Path("rlhf-store")

MLFLOW_PAGES_VARIABLE = "RLHF_MLFLOW_PAGES"
"""Address at which a browser reaches MLflow, where it is not the tracking address."""

MLFLOW_PAGES = "http://127.0.0.1:5000"
"""Where `rlhf ui` shows MLflow's pages unless told otherwise."""

PREFECT_PAGES = "http://127.0.0.1:4200"
"""Where `rlhf ui` shows Prefect's pages unless told otherwise."""

CHECKPOINT_VARIABLE = "RLHF_CHECKPOINT_SECONDS"
"""How often a training stage saves the state from which it continues."""

CHECKPOINT_SECONDS = 60.0

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages ask an outside host on every visit
    "TRANSFORMERS_VERBOSITY": "error",
}

_SETTINGS = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default 7 block a call for four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # what fails is sent again, from the journal
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight idle processes otherwise
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is pickle
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_UI_API_URL": "/api",  # right on any host and port
    "TOKENIZERS_PARALLELISM": "false",
}


def store_folder(given: Path | None) -> Path:
    """The store: `--store`, else RLHF_STORE, else ./rlhf-store; absolute.

    StorageError where it is a link to nothing: a disk that is not mounted is not to be filled in on
    another one.
    """
    chosen = (given or Path(os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)).expanduser()
    if chosen.is_symlink() and not chosen.exists():
        raise StorageError(
            f"The store {chosen} is a link to {chosen.readlink()}, which is not there. Mount or "
            f"make that folder, or choose another one with --store or {STORE_VARIABLE}."
        )
    return chosen.resolve()


def prepare_environment(store: Path) -> None:
    """Fill in what the user left open; call it before Prefect, MLflow or torch are imported."""
    for name, value in (_QUIET | _SETTINGS).items():
        os.environ.setdefault(name, value)
    ask_for_same_bits()
    os.environ[STORE_VARIABLE] = str(store)
    os.environ.setdefault("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(store / "stages"))
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(store / "prefect"))
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store / 'mlflow.db'}"
        # MLflow's own name for where a local store keeps artifacts; its default is ./mlruns
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = (store / "mlflow-artifacts").as_uri()


def seconds_given(
    variable: str, default: float, *, allowed: Callable[[float], bool], expected: str
) -> float:
    """What an environment variable says; UserError where that is not an `allowed` number."""
    given = os.environ.get(variable)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not allowed(seconds):
        raise UserError(f"{variable}={given!r} is not a number of seconds{expected}")
    return seconds


def checkpoint_seconds() -> float:
    """How often a training stage saves its state: RLHF_CHECKPOINT_SECONDS, else a minute."""
    return seconds_given(
        CHECKPOINT_VARIABLE,
        CHECKPOINT_SECONDS,
        allowed=lambda seconds: seconds >= 0,
        expected=": give one that is 0 or more, where 0 saves after every step.",
    )


def shared_environment() -> dict[str, str]:
    """What a worker elsewhere has to be told to run as this process would; no logins."""
    names = [
        *(_QUIET | _SETTINGS | STRICT_MATHS),
        *(name for name in os.environ if name.startswith("RLHF_")),
        "HF_HOME",
        "MLFLOW_TRACKING_URI",
        "_MLFLOW_SERVER_ARTIFACT_ROOT",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH",
    ]
    given = {name: os.environ[name] for name in names if name in os.environ}
    return {name: value for name, value in given.items() if "@" not in value}


LEAST_FREE_BYTES = 64 * 2**20
"""What a run of the smallest recipe writes fits in it, databases of MLflow and Prefect included."""


def check_store_room(store: Path) -> None:
    """The store takes files, and has room for a run to begin; StorageError where not.

    Asked before Prefect starts, whose own server waits minutes for a full disk.
    """
    check_room(store, LEAST_FREE_BYTES)


def make_store_folder(store: Path) -> None:
    """The store's folder is there, can be written, and can be named in a database's address."""
    if "?" in str(store):
        raise UserError(
            f"The store {store} has a question mark in its path, where the address of a SQLite "
            "database ends. Choose another folder with --store."
        )
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The store {store} cannot be made: {error.strerror}. Choose another folder with "
            f"--store or {STORE_VARIABLE}."
        ) from error
    if not os.access(store, os.W_OK | os.X_OK):
        raise StorageError(
            f"The store {store} is not writable. Choose another folder with --store or "
            f"{STORE_VARIABLE}."
        )


def mlflow_is_served() -> bool:
    """Whether runs are tracked by an MLflow server, whose pages are up."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://"))


def mlflow_pages() -> str:
    """Address of MLflow's pages: of its server, or those that `rlhf ui` will show."""
    given = os.environ.get(MLFLOW_PAGES_VARIABLE)
    if given:
        return given.rstrip("/")
    return os.environ["MLFLOW_TRACKING_URI"].rstrip("/") if mlflow_is_served() else MLFLOW_PAGES


def prefect_pages() -> str:
    """Address of Prefect's pages: of its server, or those that `rlhf ui` will show."""
    api = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL")
    return api.rstrip("/").removesuffix("/api") if api else PREFECT_PAGES
