"""What an editor asks about a file, and the language server that answers.

    bindings     which name means what, by the rules of scope
    analysis     a text with its names and the values in its models; definitions in other files
    hover        what is shown about a place
    completion   what may be written next
    edits        all places of a name, renaming, fixes, the outline
    lexer        highlighting by Pygments
    server       the same over the Language Server Protocol (needs pygls)
"""
