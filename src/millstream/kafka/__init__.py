"""What triggers and destinations on Kafka share."""
