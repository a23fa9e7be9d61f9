"""What an audit looks at, counts and advises; `ast_keras.audit` is the command."""
