"""Options of functions: AWS's limits, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.contract.options import parse_options
from millstream.functions.options import SECRET_FIELDS, FunctionOptions

ZIP: dict[str, Any] = {"name": "f", "handler": "f.h", "code": "."}
IMAGE: dict[str, Any] = {"name": "f", "image": "image.tar"}


def said(options: dict[str, Any]) -> list[str]:
    try:
        parse_options(FunctionOptions, options, SECRET_FIELDS)
    except InvalidConfiguration as invalid:
        return [str(problem) for problem in invalid.problems]
    return []


@pytest.mark.parametrize(
    "options",
    [
        ZIP,
        IMAGE,
        ZIP | {"package_type": "Zip", "architectures": ["arm64"], "layers": ["a", "b.zip"]},
        IMAGE | {"package_type": "Image", "image_config": {"entry_point": ["/a"], "command": []}},
        IMAGE | {"image_config": {"working_directory": "/srv"}, "environment": {"AB": "1"}},
        ZIP | {"file_system_configs": [{"folder": "data", "local_mount_path": "/mnt/data-1_.x"}]},
        ZIP | {"logging_config": {"log_format": "JSON", "application_log_level": "DEBUG"}},
        ZIP | {"logging_config": {"log_format": "Text"}},
        ZIP | {"provisioned_concurrent_executions": 2, "reserved_concurrent_executions": 2},
        ZIP | {"snap_start": True},
        ZIP | {"snap_start": True, "runtime": "python3.12"},
        ZIP | {"snap_start": True, "runtime": "java11"},
        ZIP | {"snap_start": True, "runtime": "dotnet10"},
        ZIP | {"snap_start": False, "runtime": "nodejs22.x"},
        ZIP | {"network": ["aws", "db.example.com:5432", "127.0.0.1:80", "[::1]:65535", "localhost:1"]},
    ],
)
def test_what_aws_takes_is_taken(options: dict[str, Any]) -> None:
    assert said(options) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "f", "code": "."}, 'handler: wanted "module.function", at most 128 characters, found not'),
        ({"name": "f", "handler": "f.h"}, "code: wanted a folder or a .zip file, found nothing"),
        (ZIP | {"code": 3}, "code: wanted a folder or a .zip file, found 3"),
        (ZIP | {"architectures": ["x86"]}, "architectures.0: wanted 'x86_64' or 'arm64', found 'x86'"),
        (ZIP | {"architectures": []}, 'architectures: wanted ["x86_64"] or ["arm64"], found []'),
        (ZIP | {"layers": ["l"] * 6}, "layers: wanted a list of at most 5 folders or .zip files, found"),
        (ZIP | {"layers": "l"}, "layers: wanted a list of at most 5"),
        (ZIP | {"package_type": "Image"}, "image: wanted an image, with package_type="),
        (ZIP | {"image_config": {}}, "image_config: wanted image beside it, found none"),
        (IMAGE | {"runtime": "python3.12"}, "runtime: wanted nothing beside image"),
        (IMAGE | {"handler": "f.h"}, "handler: wanted nothing beside image"),
        (IMAGE | {"code": "."}, "code: wanted nothing beside image"),
        (IMAGE | {"layers": ["l"]}, "layers: wanted nothing beside image"),
        (IMAGE | {"package_type": "Zip"}, "package_type: wanted \"Image\" beside image, found 'Zip'"),
        (
            IMAGE | {"image_config": {"entrypoint": ["a"]}},
            "image_config.entrypoint: wanted entry_point?, fou",
        ),
        (IMAGE | {"image_config": {"working_directory": "srv"}}, "image_config.working_directory: wanted "),
        (
            ZIP | {"file_system_configs": [{"folder": "a", "local_mount_path": "/data"}]},
            "file_system_configs.0.local_mount_path: wanted /mnt/ and a name of letters",
        ),
        (
            ZIP | {"file_system_configs": [{"folder": "a", "local_mount_path": "/mnt/.."}]},
            "file_system_configs.0.local_mount_path: wanted /mnt/ and a name of letters",
        ),
        (
            ZIP | {"file_system_configs": [{"folder": "a"}]},
            "file_system_configs.0.local_mount_path: wanted ",
        ),
        (
            ZIP | {"file_system_configs": [{"folder": "a", "local_mount_path": "/mnt/a"}] * 2},
            "file_system_configs: wanted a list of at most one",
        ),
        (ZIP | {"logging_config": {"log_format": "XML"}}, "logging_config.log_format: wanted 'Text' or 'JSO"),
        (
            ZIP | {"logging_config": {"system_log_level": "WARN"}},
            'logging_config.log_format: wanted "JSON" beside',
        ),
        (ZIP | {"snap_start": "yes"}, "snap_start: wanted True or False, found 'yes'"),
        (ZIP | {"snap_start": True, "ephemeral_storage": 513}, "snap_start: wanted an ephemeral_storage of"),
        (ZIP | {"snap_start": True, "runtime": "java8.al2"}, "snap_start: wanted a runtime of Python, of Ja"),
        (ZIP | {"snap_start": True, "runtime": "dotnet6"}, "snap_start: wanted a runtime of Python, of Ja"),
        (ZIP | {"snap_start": True, "runtime": "provided.al2023"}, "snap_start: wanted a runtime of Python"),
        (IMAGE | {"snap_start": True}, "snap_start: wanted no image beside it, found both"),
        (
            ZIP
            | {
                "snap_start": True,
                "file_system_configs": [{"folder": "a", "local_mount_path": "/mnt/a"}],
            },
            "snap_start: wanted no file_system_configs beside it",
        ),
        (
            ZIP | {"snap_start": True, "provisioned_concurrent_executions": 1},
            "snap_start: wanted no provisioned_concurrent_executions beside it",
        ),
        (
            ZIP | {"provisioned_concurrent_executions": 0},
            "provisioned_concurrent_executions: wanted a whole number, 1 or more, found 0",
        ),
        (
            ZIP | {"provisioned_concurrent_executions": 3, "reserved_concurrent_executions": 2},
            "provisioned_concurrent_executions: wanted at most reserved_concurrent_executions, 2, found 3",
        ),
        (ZIP | {"network": ["example.com"]}, 'network.0: wanted "aws" or "host:port", found'),
        (ZIP | {"network": ["a:0"]}, 'network.0: wanted "aws" or "host:port"'),
        (ZIP | {"network": ["a:65536"]}, 'network.0: wanted "aws" or "host:port"'),
        (ZIP | {"network": ["http://a:80"]}, 'network.0: wanted "aws" or "host:port"'),
        (ZIP | {"network": ["a:80/b"]}, 'network.0: wanted "aws" or "host:port"'),
        (ZIP | {"network": "aws"}, 'network: wanted a list of "aws" and "host:port"'),
    ],
)
def test_one_wrong_option_is_one_clear_line(options: dict[str, Any], says: str) -> None:
    lines = said(options)
    assert len(lines) == 1, lines
    assert lines[0].startswith(says)


def test_every_problem_is_said_at_once() -> None:
    options = IMAGE | {"handler": "f.h", "snap_start": True, "memory_size": 1, "network": ["x"]}
    assert [line.partition(":")[0] for line in said(options)] == [
        "memory_size",
        "network.0",
        "handler",
        "snap_start",
    ]
