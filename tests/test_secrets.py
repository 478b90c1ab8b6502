from __future__ import annotations

import pytest

from moe_bench.secrets import redact, secret_values

ENVIRON = {
    "WANDB_API_KEY": "abcdef123",
    "aws_secret_access_key": "lower-case",
    "HF_TOKEN": "abcdef123456",
    "DB_PASSWORD": "p4ssw0rd",
    "CLIENT_SECRET": "s3cr3t!",
    "USE_KEY": "1",
    "KEYBOARD": "qwertyuiop",
    "PATH": "/usr/bin",
}


def test_values_of_variables_named_like_keys_are_secret_the_longest_first() -> None:
    found = secret_values(ENVIRON)
    assert set(found) == {"abcdef123", "lower-case", "abcdef123456", "p4ssw0rd", "s3cr3t!"}
    assert found == sorted(found, key=len, reverse=True)


def test_secrets_are_starred_out_wherever_they_stand() -> None:
    value = {"a": ["x abcdef123456 y", {"p4ssw0rd": "k"}], "n": 3, "none": None}
    assert redact(value, secret_values(ENVIRON)) == {"a": ["x *** y", {"***": "k"}], "n": 3, "none": None}


@pytest.mark.parametrize(
    ("text", "starred"),
    [
        ("https://me:pw@host/x.tar", "https://***@host/x.tar"),
        ("logger.api_key=1234", "logger.api_key=***"),
        ("https://host/x?token=abc", "https://host/x?token=***"),
        ("model.head=token", "model.head=token"),
        ("data.label_key=label", "data.label_key=label"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_logins_and_assignments_are_starred_out_and_ordinary_words_are_not(text: str, starred: str) -> None:
    assert redact(text, []) == starred


def test_fields_named_like_a_password_are_starred_out_and_counts_of_tokens_are_not() -> None:
    value = {"password": "x", "wandb_token": "y", "tokens_per_group": 512, "label_key": "label", "head": "token"}
    assert redact(value, []) == {**value, "password": "***", "wandb_token": "***"}
