"""A Prefect automation that ends runs whose heartbeats have ended, whoever was killed with them.

A worker or a serving process that lives sees its child die by itself. Where both were killed
together, only the server is left to notice; without this the run would stay Running and hold the
one slot of its deployment for ever.
"""

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from tasks.heartbeat import MISSED_BEATS

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

NAME = "rlhf: a run without heartbeats has crashed"


def watch_for_crashes(client: "SyncPrefectClient", flow_name: str) -> None:
    """The server sets runs of the flow to Crashed once three heartbeats in a row are missing."""
    wanted = _automation(flow_name)
    known = client.read_automations_by_name(NAME)
    if not known:
        client.create_automation(wanted)
        return
    client.update_automation(known[0].id, wanted)


def _automation(flow_name: str) -> "AutomationCore":
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    seconds = MISSED_BEATS * float(os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    return AutomationCore(
        name=NAME,
        description="Made by `rlhf serve` and `rlhf deploy`; without it a run that was killed "
        "together with its worker stays Running.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": flow_name}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {seconds:.0f} seconds: its process was killed, together "
                "with the one that watched it. Started again, it goes on from its last checkpoint.",
            )
        ],
    )
