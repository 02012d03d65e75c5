"""Which broker, and with which limits."""

from __future__ import annotations

from dramatiq_postgres import PostgresBroker

from backend.jobs.broker import JobRabbitmqBroker, JobWorker, make_broker


def test_by_default_the_database_is_the_broker(settings, db):
    settings.BROKER_URL = ""
    broker = make_broker()
    try:
        assert isinstance(broker, PostgresBroker)
        assert (broker.heartbeat_ttl, broker.heartbeat_interval) == (10.0, 2.0)
        assert [type(m) for m in broker.middleware] == [JobWorker], "no time limit, no retries"
    finally:
        broker.close()


def test_amqp_is_rabbitmq_with_acknowledgements_as_late_as_the_longest_job(settings):
    settings.BROKER_URL = "amqp://past:secret@rabbit:5672/past"
    broker = make_broker()
    assert isinstance(broker, JobRabbitmqBroker)
    assert broker.parameters.host == "rabbit"
    days = broker._build_queue_arguments("gpu")["x-consumer-timeout"] / (24 * 3600 * 1000)
    assert days == 30
    assert [type(m) for m in broker.middleware] == [JobWorker]
