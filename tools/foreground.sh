#!/bin/sh
# Runs a command so that Ctrl-C reaches only it: make would otherwise die of the signal itself, before
# the command has drained and said how it ended. In the foreground of a terminal the command becomes
# the terminal's foreground group; anywhere else it is just run.
read -r stat </proc/$$/stat
foreground() {
    [ "$5" = "$8" ] # process group and the terminal's foreground group
}
# shellcheck disable=SC2086 # the fields are words
if foreground $stat; then
    set -m
    "$@"
else
    exec "$@"
fi
