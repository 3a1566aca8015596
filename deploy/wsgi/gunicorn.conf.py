"""gunicorn -c gunicorn.conf.py odoo_wsgi:application"""

import os

bind = os.environ.get("ODOO_BIND", "0.0.0.0:8069")
workers = int(os.environ.get("ODOO_WORKERS", "9"))  # deploy/roles/size
worker_class = "sync"  # one request at a time, as Odoo's own workers
timeout = 120  # as limit_time_real
graceful_timeout = 120
max_requests = 65536  # as limit_request
max_requests_jitter = 4096
preload_app = bool(os.environ.get("ODOO_PRELOAD"))
forwarded_allow_ips = "*"  # a firewall lets nginx only through; Odoo reads these headers itself
accesslog = None
