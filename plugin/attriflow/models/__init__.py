"""From text to `Batch`, and the one teacher-forced pass: wrappers around Hugging Face models."""
