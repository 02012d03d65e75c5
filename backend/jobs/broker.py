"""The broker rings the bell: its messages say "look at job N" and nothing more.

It may lose a message or deliver one twice: the job's row decides, and the reconciler rings again.
"""

from __future__ import annotations

from functools import partial
from threading import Event
from typing import Any

import psycopg
from django.conf import settings
from django.db import close_old_connections, connections, transaction
from dramatiq import Broker, Middleware
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from backend.jobs.models import Job

QUEUES = ("cpu", "gpu")
# A message stays unacknowledged as long as its job runs.
LONGEST_JOB_MS = 30 * 24 * 3600 * 1000

# Set when this worker was asked to end: attempts stand down, no new one starts.
stopping = Event()


class JobWorker(Middleware):
    """All the middleware there is: no time limit, no age limit and no retries. Jobs take hours, and
    whether one is tried again is decided by its row."""

    def before_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        stopping.set()

    def before_process_message(self, broker: Broker, message: Any) -> None:
        close_old_connections()

    def after_process_message(self, broker: Broker, message: Any, **_: Any) -> None:
        close_old_connections()

    def before_worker_thread_shutdown(self, broker: Broker, thread: Any) -> None:
        connections.close_all()


class JobRabbitmqBroker(RabbitmqBroker):
    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        arguments = super()._build_queue_arguments(queue_name)
        return {**arguments, "x-consumer-timeout": LONGEST_JOB_MS}


def make_broker() -> Broker:
    """The broker of BROKER_URL; without one, the default database is the broker too."""
    url = settings.BROKER_URL
    if url.startswith(("amqp://", "amqps://")):
        return JobRabbitmqBroker(url=url, confirm_delivery=True, middleware=[JobWorker()])
    return _postgres_broker(_keywords(url))


def _keywords(url: str) -> dict[str, str]:
    """Connection keywords of libpq, from a URL or from the default database as it is now."""
    if url:
        return {k: str(v) for k, v in psycopg.conninfo.conninfo_to_dict(url).items()}
    database = connections["default"].settings_dict
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host",
             "PORT": "port"}  # fmt: skip
    return {libpq: str(database[name]) for name, libpq in names.items() if database.get(name)}


def _postgres_broker(keywords: dict[str, str]) -> Broker:
    from dramatiq_postgres import PostgresBroker
    from dramatiq_postgres.schema import init

    with psycopg.connect(**keywords) as connection, connection.cursor() as cursor:
        init(cursor)
    return PostgresBroker(
        url={**keywords, "maxconn": "8"},
        results=False,
        middleware=[JobWorker()],
        # A killed worker's message comes back within some 12 s instead of 90.
        heartbeat_interval=2.0,
        heartbeat_ttl=10.0,
        maintenance_interval=3.0,
    )


def ring(job: Job) -> None:
    """Tell a worker to look at the job once this transaction commits."""
    transaction.on_commit(partial(_send, job.pk, job.queue), robust=True)


def _send(job_id: int, queue: str) -> None:
    # Opened on first use: showing pages and migrating need no broker. A failure is logged by
    # on_commit(robust=True), and the reconciler rings again.
    from backend.jobs.actors import run_job

    run_job.broker.enqueue(run_job.message(job_id).copy(queue_name=queue))
