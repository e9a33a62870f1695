"""Stand-in for the job controller: pods until enough have succeeded or too many have failed."""

from __future__ import annotations

from fracgpu.controller.objects.facts import is_deleting, is_ready, is_terminal
from fracgpu.sim.api.objects import JsonObject, dig, namespace_of, now
from fracgpu.sim.api.resources import JOBS, PODS
from fracgpu.sim.control.loop import Controller
from fracgpu.sim.control.replicas import pod_from_template, pods_of

COMPONENT = "job-controller"


class JobController(Controller):
    """Runs the pods of every job."""

    name = "jobs"

    def reconcile(self) -> None:
        """Look at every job that is not finished."""
        self.each((job for job in self.cluster.all(JOBS) if not is_deleting(job) and not _finished(job)), self._sync)

    def _sync(self, job: JsonObject) -> None:
        spec, pods = job["spec"], pods_of(self.cluster, job)
        succeeded = sum(dig(pod, "status", "phase") == "Succeeded" for pod in pods)
        failed = sum(dig(pod, "status", "phase") == "Failed" for pod in pods)
        active = [pod for pod in pods if not is_terminal(pod) and not is_deleting(pod)]
        condition: JsonObject | None = None
        if failed > spec["backoffLimit"]:
            condition = _condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif succeeded >= spec["completions"]:
            condition = _condition("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        if condition is not None:
            for pod in active:
                self.cluster.delete(PODS, pod)
            active = []
        else:
            for _ in range(min(spec["parallelism"], spec["completions"] - succeeded) - len(active)):
                body = pod_from_template(job, spec["template"])
                active.append(self.cluster.create(PODS, namespace_of(job), body))
        self._report(job, active, succeeded=succeeded, failed=failed, condition=condition)

    def _report(
        self, job: JsonObject, active: list[JsonObject], *, succeeded: int, failed: int, condition: JsonObject | None
    ) -> None:
        complete = condition is not None and condition["type"] == "Complete"
        self.cluster.change_status(
            JOBS,
            job,
            startTime=dig(job, "status", "startTime") or now(),
            active=len(active) or None,
            ready=sum(is_ready(pod) for pod in active),
            succeeded=succeeded or None,
            failed=failed or None,
            conditions=[condition] if condition else None,
            completionTime=now() if complete else None,
        )
        if condition is not None:
            kind = "Normal" if complete else "Warning"
            reason = "Completed" if complete else str(condition["reason"])
            self.cluster.event(job, kind, reason, str(condition["message"]), component=COMPONENT)


def _finished(job: JsonObject) -> bool:
    conditions = dig(job, "status", "conditions") or []
    return any(item.get("type") in ("Complete", "Failed") and item.get("status") == "True" for item in conditions)


def _condition(kind: str, reason: str, message: str) -> JsonObject:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now(),
        "lastProbeTime": now(),
    }
