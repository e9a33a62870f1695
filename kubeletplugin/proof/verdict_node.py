"""Judges what this node has of an allocation: whether it is prepared, and fits this plugin. Pure.

Unlike the verdicts about processes (verdict.py) these need no second look: only the plugin writes these files.
"""

from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, EntryState
from fracgpu.kubeletplugin.proof.evidence import AllocationEvidence, FileTrouble, Trouble
from fracgpu.kubeletplugin.proof.observation import Finding, Truth
from fracgpu.native import abi
from fracgpu.native.config_page import ConfigPage

_DIGEST_SHOWN = 12


def prepared(evidence: AllocationEvidence) -> Finding:
    """Return whether the node holds all that a container of the claim needs."""
    state = evidence.entry.state
    if state is EntryState.PREPARING:
        return Finding(Truth.FALSE, "Preparing", "the claim is being prepared; the kubelet asks again until it is")
    if state is not EntryState.PREPARED:
        what = "the claim was taken back; its files go when the last process that uses them has ended"
        return Finding(Truth.FALSE, "Releasing", what)
    missing = [
        name
        for name, absent in (
            ("config page", _is_missing(evidence.page)),
            ("state file", _is_missing(evidence.account)),
            ("CDI spec", not evidence.spec_present),
        )
        if absent
    ]
    if missing:
        what = f"not on the node: {', '.join(missing)}; made again when the kubelet prepares the claim for a container"
        return Finding(Truth.FALSE, "FilesMissing", what)
    return Finding(Truth.TRUE, "Prepared", "config page, state file and CDI spec are on the node")


def compatible(evidence: AllocationEvidence) -> Finding:
    """Return whether interceptor, config page and state file are such as this plugin understands."""
    digest = evidence.entry.library_digest[:_DIGEST_SHOWN]
    if not evidence.library_present:
        what = f"interceptor {digest} is not on this node any more: delete the pod so that its claim is prepared anew"
        return Finding(Truth.FALSE, "LibraryMissing", what)
    page = evidence.page
    if isinstance(page, FileTrouble):
        return _page_trouble(page)
    if not _fits(page, evidence.record):
        return Finding(Truth.FALSE, "ConfigPageDiffers", "the config page states other limits than the checkpoint")
    account = evidence.account
    if isinstance(account, FileTrouble) and account.kind is Trouble.OTHER_VERSION:
        return Finding(Truth.FALSE, "VersionMismatch", f"state file {account.what}")
    return Finding(Truth.TRUE, "Compatible", f"interceptor {digest}, ABI version {abi.ABI_VERSION}")


def _fits(page: ConfigPage, record: AllocationRecord) -> bool:
    """Tell whether the page is the allocation's; the node's administrator may have lowered its limit."""
    if (page.allocation_id, page.device_uuid.lower()) != (record.allocation_id, record.gpu_uuid.lower()):
        return False
    limit = page.memory_limit_bytes
    return (limit is None) == (not record.limited) and (limit is None or limit <= record.memory_bytes)


def _page_trouble(page: FileTrouble) -> Finding:
    findings = {
        Trouble.MISSING: (Truth.UNKNOWN, "FilesMissing"),
        Trouble.UNREADABLE: (Truth.UNKNOWN, "ConfigPageUnreadable"),
        Trouble.OTHER_VERSION: (Truth.FALSE, "VersionMismatch"),
        Trouble.DAMAGED: (Truth.FALSE, "ConfigPageInvalid"),
    }
    truth, reason = findings[page.kind]
    return Finding(truth, reason, f"config page {page.what}")


def _is_missing(found: object) -> bool:
    return isinstance(found, FileTrouble) and found.kind is Trouble.MISSING
