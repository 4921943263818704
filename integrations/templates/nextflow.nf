// Nextflow: a process before training, one beside it that keeps the lease, one after it. MOVER_URL and
// MOVER_TOKEN_FILE stand in the environment (`env` scope of nextflow.config); flash is mounted where `seen_as` says.
//
//     STAGE(Channel.of("gleason >= 7"))
//     KEEP(STAGE.out.run)
//     TRAIN(STAGE.out.root)
//     END(STAGE.out.run, TRAIN.out)
//
// A session that fails ends KEEP, too: an hour later the lease protects and cleans.

process STAGE {
    // a root that was cleaned is no result to resume with
    cache false

    input:
    stdin

    output:
    env('RUN'), emit: run
    env('ROOT'), emit: root

    // The expression comes as a file, and is never pasted into a shell. A task that is retried finds its run by the key:
    // launch, process and index; a resumed session is another launch.
    shell:
    '''
    expression=$(cat)
    python -m mover run request --expression "$expression" --key "nextflow/!{workflow.sessionId}/!{workflow.runName}/!{task.process}/!{task.index}" --lease 3600 --wait --json > run.json
    RUN=$(python -c 'import json; print(json.load(open("run.json"))["id"])')
    ROOT=$(python -c 'import json; print(json.load(open("run.json"))["root"])')
    '''
}

process KEEP {
    // it waits and does nothing else: no slot of a cluster is held for it
    executor 'local'
    cache false

    input:
    val run

    shell:
    '''
    python -m mover run keep "!{run}"
    '''
}

process END {
    cache false

    input:
    val run
    val trained

    shell:
    '''
    python -m mover run finish "!{run}" --wait
    python -m mover run clean "!{run}" --wait
    '''
}
