"""Cutting bonds as far as a task allows, with a trainer for the workstation.

May import everything below the command line. Inside, imports go down this list:

    squeeze      the command as a plain function
    rounds       one round: cut, evaluate, train
    workspace    what is on the disk while it lasts
    importance   what a task needs of a bond's directions
    cutting      directions left out
    training     the board's rules on the workstation
    record       squeeze.json
"""
