"""`crisper completion SHELL`, and what is completed beside commands and options."""

from __future__ import annotations

import click

#: As click looks for it when `crisper` is called by what it prints here.
VARIABLE = "_CRISPER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes your shell complete crisper's commands and options.

    It completes the command `crisper`, wherever it is installed; bash must be
    4.4 or later. Task ids are not completed: it never asks the registry.

    \b
    Examples:
      eval "$(crisper completion bash)"     in ~/.bashrc
      eval "$(crisper completion zsh)"      in ~/.zshrc, after compinit
      crisper completion fish > ~/.config/fish/completions/crisper.fish
    """
    from click.shell_completion import get_completion_class

    from crisper.faces.cli.group import cli

    of_shell = get_completion_class(shell)
    assert of_shell is not None
    click.echo(of_shell(cli, {}, "crisper", VARIABLE).source())


def states(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    from crisper.core.states import task_words

    return sorted(word for word in task_words() if word.startswith(begun))
