"""Renders launch/kubernetes without a cluster, and without kubectl.

What kustomize does is done here as far as these files need it: resources, components, patches (merged maps, or lists of
operations), generated ConfigMaps, namespace and images. test_manifests.py compares the result with kubectl's.
"""

import copy
import functools
import pathlib

import yaml

HERE = pathlib.Path(__file__).resolve().parents[2] / "launch" / "kubernetes"
CLUSTER_WIDE = {"Namespace", "StorageClass"}


@functools.cache
def parse(path):
    """The objects of a YAML file, which all callers share."""
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item is not None]


def load(path):
    """The objects of a YAML file."""
    return copy.deepcopy(parse(path))


def merge(target, patch):
    """Merges a patch into a map: maps are merged, null removes, everything else replaces."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def operate(target, operation):
    """One operation of a JSON patch; these files have only `add`."""
    if operation["op"] != "add":
        raise ValueError(f"operation {operation['op']}")
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    for part in way:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if isinstance(target, list):
        target.insert(len(target) if last == "-" else int(last), operation["value"])
    else:
        target[last] = operation["value"]


def patch_objects(folder, patch, objects):
    """Applies one entry of `patches`."""
    content = load(folder / patch["path"])[0] if "path" in patch else yaml.safe_load(patch["patch"])
    target = patch.get("target") or {"kind": content["kind"], "name": content["metadata"]["name"]}
    chosen = [item for item in objects if item["kind"] == target["kind"] and item["metadata"]["name"] == target["name"]]
    if len(chosen) != 1:
        raise ValueError(f"{folder}: a patch for {target} finds {len(chosen)} objects")
    if isinstance(content, dict):
        merge(chosen[0], content)
    else:
        for operation in content:
            operate(chosen[0], operation)


def rename_images(item, images):
    """Replaces the names of images in all containers."""
    if isinstance(item, list):
        for part in item:
            rename_images(part, images)
    elif isinstance(item, dict):
        for container in item.get("containers", []):
            if container["image"] in images:
                image = images[container["image"]]
                container["image"] = f"{image['newName']}:{image['newTag']}"
        for part in item.values():
            rename_images(part, images)


def build(folder, objects):
    """Adds a kustomization's objects to the list, and changes what is there."""
    kustomization = load(folder / "kustomization.yaml")[0]
    known = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "configMapGenerator",
             "generatorOptions", "images"}
    if set(kustomization) - known:
        raise ValueError(f"{folder}: not understood here: {set(kustomization) - known}")
    for name in kustomization.get("resources", []):
        path = (folder / name).resolve()
        objects.extend(render(path) if path.is_dir() else load(path))
    for generator in kustomization.get("configMapGenerator", []):
        files = [folder / name for name in generator["files"]]
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]},
                        "data": {path.name: path.read_text(encoding="utf-8") for path in files}})
    for name in kustomization.get("components", []):
        build((folder / name).resolve(), objects)
    for patch in kustomization.get("patches", []):
        patch_objects(folder, patch, objects)
    for item in objects:
        if "namespace" in kustomization and item["kind"] not in CLUSTER_WIDE:
            item["metadata"]["namespace"] = kustomization["namespace"]
    rename_images(objects, {image["name"]: image for image in kustomization.get("images", [])})


def render(folder, kind=None):
    """All objects of an overlay, or the one of a kind."""
    objects = []
    build(HERE / folder, objects)
    return next(item for item in objects if item["kind"] == kind) if kind else objects
