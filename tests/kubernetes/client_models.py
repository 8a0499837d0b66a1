"""Checks objects against the classes of Kubernetes' Python client, which are generated from the API's own description.

schema.yaml is ours; this is a second opinion, where the distribution's python3-kubernetes is installed. MPIJob is no part
of it, its pods are.
"""

import importlib
import importlib.util
import re

VALUES = {"str": str, "int": int, "bool": bool, "object": object}


def available():
    """Whether there is a client library."""
    return importlib.util.find_spec("kubernetes") is not None


def check(kind, value, where):
    """Yields what is wrong with a value: a list, a map, an object of the API or a plain value."""
    models = importlib.import_module("kubernetes.client.models")
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        for i, part in enumerate(value if isinstance(value, list) else []):
            yield from check(found[1], part, f"{where}[{i}]")
        if not isinstance(value, list):
            yield f"{where}: a list is needed, not {value!r}"
    elif found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        quantities = where.endswith((".requests", ".limits")) # strings or numbers
        for name, part in value.items():
            yield from check("object" if quantities else found[1], part, f"{where}.{name}")
    elif kind in VALUES:
        if not isinstance(value, VALUES[kind]) or kind == "int" and isinstance(value, bool):
            yield f"{where}: {value!r} is no {kind}"
    else:
        model = getattr(models, kind)
        names = {model.attribute_map[name]: name for name in model.openapi_types}
        for name, part in value.items():
            if name not in names:
                yield f"{where}.{name}: no such field"
            else:
                yield from check(model.openapi_types[names[name]], part, f"{where}.{name}")


def errors(item):
    """What is wrong with an object, a sentence each; None when there is no class for it."""
    models = importlib.import_module("kubernetes.client.models")
    if item["kind"] == "MPIJob":
        pods = item["spec"]["mpiReplicaSpecs"].items()
        return [error for role, pod in pods for error in check("V1PodTemplateSpec", pod["template"], role)]
    *_, version = item["apiVersion"].split("/")
    kind = version.capitalize() + item["kind"]
    return list(check(kind, item, item["kind"])) if hasattr(models, kind) else None
