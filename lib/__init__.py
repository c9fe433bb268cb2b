"""Brain MRI tumour segmentation: 15 modules to read and change, and packages behind them.

Change them, in this order: ``unet_layers``, ``unet_init_weights``, ``unet``, ``unet_2plus``,
``unet_3plus``, ``networks``; ``loss``; ``transform``, ``dataset``; ``metrics``; ``optim``.
Understand them: ``config``, ``train``, ``evaluate``, ``utils``.
Each package says in its ``__init__.py`` what it does: ``runtime``, ``data``, ``logger``,
``predict``, ``stats``, ``phantom``, ``sweep``, ``plot``, ``viewer``, ``report``, ``notebook``,
``check``, ``grade``.
"""

__version__ = "1.0.0"
