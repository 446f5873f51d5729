"""Declarations of RabbitMQ queues: addresses, logins, limits. No server is asked."""

from __future__ import annotations

import pytest

from millstream.amqp.address import AMQP
from millstream.contract.errors import InvalidConfiguration
from millstream.contract.ports import RetryInPlace
from millstream.triggers.rabbitmq import RabbitMqTrigger
from tests.brokers.rabbitmq import PASSWORD, USER


def test_the_url_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AMQP.variable, f"amqps://{USER}:{PASSWORD}@rabbit.example.com/a%2Fb")
    trigger = RabbitMqTrigger.parse({"queue": "orders"})
    assert trigger.source == "orders at rabbit.example.com:5671/a%2Fb"
    assert (trigger.address.username, trigger.address.password) == (USER, PASSWORD)
    assert PASSWORD not in repr(trigger)


def test_no_url_at_all_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AMQP.variable, raising=False)
    with pytest.raises(InvalidConfiguration, match=f"or in {AMQP.variable}, found nothing"):
        RabbitMqTrigger.parse({"queue": "orders"})


def test_a_url_that_is_wrong_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"amqp://{USER}:{PASSWORD}@host:port/", f"ampq://{USER}:{PASSWORD}@host"):
        with pytest.raises(InvalidConfiguration) as declared:
            RabbitMqTrigger.parse({"queue": "orders", "url": url})
        monkeypatch.setenv(AMQP.variable, url)
        with pytest.raises(InvalidConfiguration) as found:
            RabbitMqTrigger.parse({"queue": "orders"})
        assert PASSWORD not in f"{declared.value}{found.value}"


def test_options_stand_in_place_of_parts_of_the_url() -> None:
    options = {"virtual_host": "other", "basic_auth": {"username": "me", "password": PASSWORD}}
    trigger = RabbitMqTrigger.parse({"queue": "q", "url": "amqp://u:p@host/vhost", **options})
    address = trigger.address
    assert (address.virtual_host, address.username, address.password) == ("other", "me", PASSWORD)
    assert PASSWORD not in repr(trigger)


def test_a_broker_that_is_not_on_aws_has_an_arn_in_the_form_of_one() -> None:
    trigger = RabbitMqTrigger.parse({"queue": "q", "url": "amqp://rabbit.example.com"})
    start = "arn:aws:mq:us-east-1:000000000000:broker:rabbit.example.com:b-"
    assert trigger.event_source_arn.startswith(start)
    again = RabbitMqTrigger.parse({"queue": "other", "url": "amqp://u:p@rabbit.example.com:5672/v"})
    assert again.event_source_arn == trigger.event_source_arn


def test_a_window_opens_with_the_first_record_and_is_half_a_second() -> None:
    limits = RabbitMqTrigger.parse({"queue": "q", "url": "amqp://h"}).limits
    assert (limits.size, limits.window_s, limits.from_first) == (100, 0.5, True)


@pytest.mark.parametrize(
    ("options", "in_place"),
    [
        ({}, RetryInPlace(1.0, 60.0, 1620.0)),
        ({"retry_delay": 5, "retry_backoff_max": 300}, RetryInPlace(5.0, 300.0, 1620.0)),
        ({"consumer_timeout": 3600}, RetryInPlace(1.0, 60.0, 3240.0)),
        ({"requeue": False}, None),  # to its dead-letter exchange at once
    ],
)
def test_what_fails_is_held_for_as_long_as_the_broker_waits(
    options: dict[str, object], in_place: RetryInPlace | None
) -> None:
    policy = RabbitMqTrigger.parse({"queue": "q", "url": "amqp://h", **options}).policy
    assert policy.in_place == in_place
    assert policy.rejects


def test_the_longest_wait_is_not_shorter_than_the_first() -> None:
    with pytest.raises(
        InvalidConfiguration, match="retry_backoff_max: wanted at least retry_delay=90, found"
    ):
        RabbitMqTrigger.parse({"queue": "q", "url": "amqp://h", "retry_delay": 90})
