//! The OpenAI dialect: authenticates, finds the model, takes a lease, and proxies bytes.
