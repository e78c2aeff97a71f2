"""The outputs of a run: adapter folder, model card, merged model, versions."""
