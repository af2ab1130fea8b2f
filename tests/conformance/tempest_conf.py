"""Run by an environment's Python: write tempest.conf from what Tempest and its plugins know themselves.

Input (JSON on stdin): {"file": path, "settings": {group: {option: value}}, "off": [[group, option], ...]}. Every
switch that is not in ``off`` is on, so a new Tempest brings its new tests along. Output: the settings that no package
here knows, as JSON.
"""

from __future__ import annotations

import configparser
import json
import sys
from typing import Any


def main() -> None:
    from oslo_config import types
    from tempest import config  # type: ignore[import-not-found]  # lives in the suite's environment

    asked = json.load(sys.stdin)
    off = {tuple(one) for one in asked["off"]}
    assert config.CONF.auth  # reads all options, the plugins' too
    known = config._CONF._groups
    settings: dict[str, dict[str, Any]] = {}
    for group, content in known.items():
        if not (
            group.endswith("feature-enabled")
            or group == "enforce_scope"
            or group.endswith("_feature_enabled")
        ):
            continue
        for name, entry in content._opts.items():
            if isinstance(entry["opt"].type, types.Boolean):
                settings.setdefault(group, {})[name] = (group, name) not in off
    unknown = []
    for group, values in asked["settings"].items():
        for name, value in values.items():
            if (group in known and name in known[group]._opts) or group == "DEFAULT":
                settings.setdefault(group, {})[name] = value
            else:
                unknown.append([group, name])
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict({group: {k: str(v) for k, v in values.items()} for group, values in settings.items()})
    with open(asked["file"], "w") as file:
        parser.write(file)
    print(json.dumps(unknown))


if __name__ == "__main__":
    main()
