"""Detection in a large input, shard by shard.

The input is cut into shards of a fixed number of images, in the input's order. A worker writes the rows of a shard to
one file, the part, under a temporary name, and renames it. A part that exists is done. So a worker that dies loses at
most its shard, and a second run of the same command continues where the first one stopped.
"""
