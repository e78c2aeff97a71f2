"""What leaves a run: the adapter's folder, its model card, the merged model, the versions."""
