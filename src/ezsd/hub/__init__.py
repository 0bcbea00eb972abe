"""Models on a hub (huggingface.co or a compatible server): download, upload, model card."""
