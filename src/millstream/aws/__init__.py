"""What adapters of AWS services share: ARNs and the making of clients. Imports boto3 on use only."""
