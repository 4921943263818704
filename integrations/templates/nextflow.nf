// Nextflow: two processes around training. MOVER_URL and MOVER_TOKEN_FILE stand in the environment
// (`env` scope of nextflow.config); flash is mounted where `seen_as` says.

process STAGE {
    input:
    val expression

    output:
    tuple path('run'), path('root')

    shell:
    '''
    # the same session asks for the same run, also when this task is retried
    python -m mover run request --expression "!{expression}" --key "nextflow/!{workflow.sessionId}/stage" --wait --json > run.json
    python -c 'import json; said = json.load(open("run.json")); open("run", "w").write(said["id"]); open("root", "w").write(said["root"])'
    '''
}

process END {
    input:
    val run
    val trained

    shell:
    '''
    python -m mover run finish "!{run}" --wait
    python -m mover run clean "!{run}" --wait
    '''
}
