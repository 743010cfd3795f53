"""What methods need of a language model: load it, talk to it, score texts, tokenise, embed."""
