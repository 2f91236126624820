"""Entry points of this package's commands."""

from condinst_deploy.support.launch import command

build_engine = command("condinst_engines.cli.build_engine")
compare = command("condinst_engines.cli.compare")
inspect = command("condinst_engines.cli.inspect")
