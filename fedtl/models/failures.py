"""Which module of a model raised an exception, in one line: a model that a user wrote may fail in any way."""

from torch import OutOfMemoryError, nn

from fedtl.errors import FedTLError

ADVICE = {
    "Embedding": '; its inputs must be whole numbers from 0 below {num_embeddings}: set data.scale = "none", which keeps codes',
}


def module_failure(error: BaseException) -> str | None:
    """
    Return in one line which module of a model raised ``error`` and why; None where the error has its own line (a FedTLError),
    where memory ran out, which is not a fault of the model, and where no module was running, or one of fedtl's own.
    """
    if isinstance(error, FedTLError | MemoryError | OutOfMemoryError) or not isinstance(error, Exception):
        return None
    running = _running(error)
    if not running or _is_own(running[-1]):
        return None
    path = next((path for path, module in running[0].named_modules() if module is running[-1]), "")
    kind = type(running[-1]).__name__
    where = f"{path} ({kind})" if path else kind
    reason = (str(error).splitlines() or [""])[0]
    advice = ADVICE.get(kind, "") if isinstance(error, IndexError) else ""
    return (
        f"the model fails in {where}: {reason or type(error).__name__}{advice.format_map(vars(running[-1]))}"
    )


def _running(error: Exception) -> list[nn.Module]:
    """Return the modules that were called, from the outermost on: torch calls each by a function whose first argument it is."""
    modules: list[nn.Module] = []
    traceback = error.__traceback__
    while traceback is not None:
        names, values = traceback.tb_frame.f_code.co_varnames, traceback.tb_frame.f_locals
        first = values.get(names[0]) if names else None
        if isinstance(first, nn.Module) and traceback.tb_frame.f_code.co_name == "_call_impl":
            modules.append(first)
        traceback = traceback.tb_next
    return modules


def _is_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith("fedtl.") and type(module).__name__ != "Net"
