"""``python3 agent.zip VERB …`` prints JSON lines.

What a person has to change is ``{"error": {"kind", "message"}}`` and exit code 0, so that any other exit code is a
crash or a lost connection.

    facts                          what the device is
    enter WORK OWNER               work directories of other builds here, free space
    offer PATH SHA256 SIZE         whether a file with this content is here already, or how much of it
    put PATH SHA256 SIZE OFFSET    the rest of it, from stdin
    stat PATH, get PATH OFFSET     size and digest of a file; its content
    mkdir PATH, remove PATH        a folder inside the work directory
    job FOLDER OFFSET HEARD …      start the job on stdin unless it runs, send its output from OFFSET, give its result;
                                   folders of jobs whose result was heard are removed
    cancel FOLDER                  end a job that nobody waits for any more
    run FOLDER                     the job itself; detached, so that it outlives the connection
    hold WORK POWER_MODE CLOCKS    hold the board for the measured jobs of a build; detached, ends when they pause
    carried FOLDER                 run the commands of a folder that was carried here by hand
    leave WORK                     end what runs, put power and clocks back, remove the work directory
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from edgeprune.agent import carried, facts, files, hold, jobs, work
from edgeprune.agent.system import Refused, refusal_of, say, work_folder

ANSWERED = {
    "facts": lambda: asdict(facts.device_facts()),
    "enter": work.enter_work,
    "offer": lambda path, sha256, size: files.offer(path, sha256, int(size)),
    "put": lambda path, sha256, size, offset: files.put(path, sha256, int(size), int(offset)),
    "stat": files.stat,
    "mkdir": files.make_folder,
    "remove": files.remove_folder,
    "job": lambda folder, offset, *heard: jobs.follow_job(folder, int(offset), heard),
    "cancel": jobs.cancel_job,
    "leave": work.leave_work,
}
SILENT = {  # what they give is an exit code, None for 0
    "get": lambda path, offset: files.get(path, int(offset)),
    "run": jobs.run_job,
    "hold": hold.hold_board,
    "carried": carried.run_carried,
}


def main(argv: list[str]) -> int:
    """Do one verb; gives the exit code."""
    verb, arguments = argv[1], argv[2:]
    if verb != "carried":
        work.note_use(work_folder())
    try:
        if verb in SILENT:
            return SILENT[verb](*arguments) or 0
        say(**ANSWERED[verb](*arguments))
    except Refused as error:
        say(error={"kind": error.kind, "message": str(error)})
    except OSError as error:
        say(error=refusal_of(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
