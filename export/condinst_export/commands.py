"""Entry point of this package's command."""

from condinst_deploy.support.launch import command

export = command("condinst_export.cli")
