"""Renders one conversation by a template from outside, in a process that its limits end."""

import json
import resource
import sys

from rlhf_core.chat_template import TRIAL_BYTES, TRIAL_CPU_SECONDS, ChatTemplate
from rlhf_core.errors import ModelError


def main() -> int:
    """Exit code 0 where the template on standard input renders, else 1 with the reason."""
    asked = json.load(sys.stdin)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(spent.ru_utime + spent.ru_stime) + 1 + TRIAL_CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_AS, (TRIAL_BYTES, TRIAL_BYTES))
    template = ChatTemplate(asked["text"], dict(asked["special_tokens"]))
    try:
        template.render(asked["messages"], add_generation_prompt=False)
    except (ModelError, MemoryError, RecursionError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
