"""The one Dramatiq actor. Importing this module opens the broker."""

from __future__ import annotations

import dramatiq

from backend.jobs import runner
from backend.jobs.broker import QUEUES, make_broker

broker = make_broker()
dramatiq.set_broker(broker)
for queue in QUEUES:
    broker.declare_queue(queue)


@dramatiq.actor(queue_name=QUEUES[0], broker=broker)
def run_job(job_id: int) -> None:
    """Look at a job and run one attempt of it, if it waits. Messages name the queue they go to."""
    runner.run_attempt(job_id)
