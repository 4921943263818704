"""Every judgement of the daemon, and no IO: facts in, plan with reasons out (D7).

An auditor can read in this one folder everything the daemon may ever decide.
"""
