"""`cohere-gateway check`."""

import asyncio
import sys

import click

from gateway.cli.command import Command, CommandFailed, config_option, json_option, wants_json


@click.command(
    "check",
    cls=Command,
    example="cohere-gateway check && systemctl restart cohere-gateway",
    short_help="Find what is wrong with the settings and what the gateway needs.",
    help="Looks at the settings, the Cohere keys, the models, the clock, the database, Redis and this machine, and "
    "says what to do about what it finds. Nothing is changed, and no call is made that Cohere charges for. The exit "
    "status is 1 if something would not work; warnings alone are 0.",
)
@config_option("The settings file.")
@click.option("--offline", is_flag=True, help="Look at the settings and this machine only, and connect to nothing.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings as well.")
@json_option
def check(config: str | None, offline: bool, strict: bool) -> int:
    from gateway.cli import doctor
    from gateway.cli.tables import print_json
    from gateway.settings.loading import load_from_environment
    from gateway.settings.schema import SettingError

    # Not `read_settings`, which would end the command: what is wrong with the settings is a finding.
    try:
        settings = load_from_environment(config)
    except SettingError as error:
        findings = [doctor.settings_refused(str(error))]
    else:
        findings = asyncio.run(doctor.examine(settings, offline))
    failed = any(one.status == "fail" for one in findings)
    warned = any(one.status == "warn" for one in findings)
    if wants_json():
        print_json({"status": "fail" if failed else "warn" if warned else "ok", "findings": findings})
    else:
        for one in findings:
            print(f"{one.status:4}  {one.check:9} {one.message}")
            if one.remedy:
                print(f"      {'':9} -> {one.remedy}")
    if failed or (strict and warned):
        raise CommandFailed("something would not work" if failed else "there are warnings", 1)
    sys.stdout.flush()
    return 0
