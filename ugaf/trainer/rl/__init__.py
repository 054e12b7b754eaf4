"""Post-training: the trained editor is rewarded for its own edits (FineEdit, arXiv 2604.10954, section 3.3).

    python -m ugaf.trainer.rl pipelines/train/fineedit-post.yaml

An epoch takes a few pairs from the shards. For each of them the model makes a group of edits that differ by their
noise (`sampling`); each is scored inside and outside of the box (`rewards`, `judge`, `measures`) and compared with the
rest of its group (`advantages`). A LoRA learns from that (`nft`, or `dpo`). `loop` puts it together.
"""
