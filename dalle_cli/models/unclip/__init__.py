"""The models of DALL-E 2 (unCLIP): two priors over CLIP's image embeddings, and the decoder."""
