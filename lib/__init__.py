"""Brain MRI tumour segmentation: the code behind the course notebooks."""
