"""The modules that a PyTorch file holds where the module itself was saved, as inert names and attributes."""

from pathlib import Path

from jaxseg.weights.records import Record, TorchFileError
from jaxseg.weights.torch_file import MAX_DEPTH, MAX_MODULES, load_torch_file


def read_torch_modules(path: str | Path) -> dict[str, tuple[str, dict[str, object]]]:
    """Returns the modules of a file: path -> class name, and those attributes that are plain numbers or text.

    Args:
      path: a file of `torch.save(module, ...)`; nothing in it is executed.

    Returns:
      The modules, the outermost under ""; none where the file holds no module but tensors alone.

    Raises:
      TorchFileError: the file is damaged, or refers to what no weights file needs.
      OSError: the file cannot be opened.
    """
    found, waiting = {}, [("", 0, load_torch_file(path))]
    while waiting:
        name, depth, module = waiting.pop()
        if type(module) is not Record or type(module.state) is not dict or module.entries:
            continue
        if depth > MAX_DEPTH or len(found) >= MAX_MODULES:
            raise TorchFileError(f"its modules are nested more than {MAX_DEPTH} deep, or are over {MAX_MODULES:,}")
        plain = {key: value for key, value in module.state.items() if type(value) in (bool, int, float, str)}
        found[name] = (module.name, plain)
        children = module.state.get("_modules")
        if type(children) is dict:
            waiting += [(f"{name}.{key}".lstrip("."), depth + 1, child) for key, child in children.items()]
    return found
